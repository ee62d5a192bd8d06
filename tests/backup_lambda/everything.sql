-- Every kind of object and value that a backup must bring back exactly.

create schema extensions;
create extension hstore schema extensions;
create extension citext schema extensions;
create extension ltree schema extensions;
drop extension if exists pg_trgm;  -- a database with roles has it elsewhere
create extension pg_trgm schema extensions;
create extension btree_gist schema extensions;
create schema other;
set timezone = 'UTC';

-- Types

create type notes.mood as enum ('sad', 'it''s ok', 'glad');
alter type notes.mood add value 'meh' before 'glad';
create domain notes.positive as int default 7 constraint pos check (value > 0) not null;
create domain notes.small as notes.positive check (value < 1000);
create type notes.pair as (a int, b text collate "C");
create type notes.nested as (p notes.pair, many notes.pair[]);
create type notes.empty_composite as ();
create collation notes.by_code (provider = builtin, locale = 'PG_UNICODE_FAST');
create type notes.textrange as range (subtype = text, collation = "C");
create type notes.floats as range (subtype = float8, subtype_diff = float8mi, multirange_type_name = notes.manyfloats);
create domain notes.document as json;

create table notes.made_of_types (
    id int primary key, mood notes.mood, moods notes.mood[], small notes.small, pair notes.pair, pairs notes.pair[],
    nested notes.nested, deep notes.nested[], by_code text collate notes.by_code, textrange notes.textrange,
    floats notes.floats, many notes.manyfloats, ints int4range, multi int4multirange, times tsrange[],
    document notes.document, pairs_by_name extensions.hstore, unfolded extensions.citext, path extensions.ltree,
    nothing notes.empty_composite);
insert into notes.made_of_types values
    (1, 'it''s ok', '{sad,"it''s ok",NULL}', 999, row(1, 'x,"y\'), array[row(1,'(")'), null, row(null,null)]::notes.pair[],
     row(row(null, ''), array[row(1, 'é')::notes.pair, null]), array[row(row(1, 'a'), array[row(2, 'b')::notes.pair])::notes.nested],
     'Ä', '[a,b)', '(,1.5e-320]', '{[1,2],(3,4)}', '[1,5)', '{[1,2),[5,9)}', '{"[2000-01-01,2001-01-01]",empty}',
     E'{"a":\n1, "a": 2}', 'a=>1, "b c"=>NULL', 'CiText', 'a.b.c', row()),
    (2, null, '{}', 1, row(null, null), '{}', row(null, null), '[5:5]={NULL}', '', 'empty', '[5e-324,5e-324]', '{}',
     'empty', '{}', '{}', 'null', '', '', '', null),
    (3, null, '[-1:0]={sad,glad}', 5, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null);

create table notes.arrays (id int primary key, numbers int[], square int[], words text[], padded char(4)[], boxes box[], vector int2vector);
insert into notes.arrays values
    (1, '{7,8}', '{{1,2},{3,4}}', '{"a,b","NULL",NULL,"\"","\\"}', '{a,"b c"}', '{(1,1),(0,0);(2,2),(1,1)}', '1 2 3'),
    (2, '[2:3]={7,8}', '[0:1][-1:0]={{1,2},{3,NULL}}', '[5:5][1:2]={{a,b}}', '{}', '{}', ''), (3, '{}', null, '{}', null, null, null);

create table notes.documents (id int primary key, plain json, parsed jsonb, plains json[], parseds jsonb[]);
insert into notes.documents values
    (1, E'{"a":\n1, "a": 2}', '{"a": null, "n": 12345678901234567890.123456789, "e": 1e400}', array[E'[\n]', 'null', null]::json[], array['null', null, '1']::jsonb[]),
    (2, 'null', 'null', '{}', '{}'), (3, '" \u0041"', '[null, {"deep": [null]}]', null, null), (4, null, null, null, null),
    (5, '{"k": "\u0000"}', (repeat('[', 500) || 'null' || repeat(']', 500))::jsonb, array[null]::json[], null);

create table notes.numbers (id int primary key, n numeric, few numeric(40, 9), f4 float4, f8 float8, s2 int2, i8 int8, cash money);
insert into notes.numbers values
    (1, 12345678901234567890.123456789, 1.1, 1.1, 0.30000000000000004, -32768, -9223372036854775808, '-92233720368547758.08'),
    (2, 'NaN', 0.000000001, 'NaN', '-0', 32767, 9223372036854775807, 0), (3, 'Infinity', -1e30, '-Infinity', 'Infinity', 0, 0, 1),
    (4, '-Infinity', null, 1e-45, 5e-324, null, null, null), (5, 1e400, null, 3.4028235e38, 1.7976931348623157e308, 1, 1, 1),
    (6, 1e-300, null, -1.1754944e-38, -2.2250738585072014e-308, 1, 1, 1),
    (7, -0.00, 0.1, '-0', 0.1, 1, 1, 1), (8, 1.10, 1e10, 16777217, 1e23, 1, 1, 1);

create table notes.times (id int primary key, at timestamp, at_zone timestamptz, day date, "time" time, zoned timetz, span interval);
insert into notes.times values
    (1, '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999', '5874897-12-31', '24:00', '12:00:00.5+15:59', '178000000 years -11 mons 3 days 04:05:06.789'),
    (2, '4713-01-01 00:00 BC', '4713-01-01 00:00 BC', '4713-01-01 BC', '00:00', '00:00-15:59', '-1 days +00:00:00.000001'),
    (3, 'infinity', '-infinity', '-infinity', '23:59:59.999999', null, 'infinity'), (4, '0001-01-01 BC', '2000-02-29 23:59:60+14', '0044-03-15 BC', '12:00', null, '0');

create table notes.others (
    id int primary key, bytes bytea, address inet, network cidr, mac macaddr, mac8 macaddr8, bits bit(3), more_bits varbit, vector tsvector, query tsquery,
    u uuid, tiny "char", name name, o oid, relation regclass, type regtype, lsn pg_lsn, point point, box box, polygon polygon, line line, lseg lseg, path path,
    circle circle, padded char(3), short varchar(5), yes boolean, jsonpath jsonpath, xid xid8, snapshot pg_snapshot, tid tid);
insert into notes.others values
    (1, '\x00ff', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '101', '1010101', 'a:1A b:2,3 ''it''''s''', 'a & !b <-> c:*A',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'é', 'na"me', 4294967295, 'notes.times', 'notes.mood', 'FFFFFFFF/FFFFFFFF', '(1.5,-0)', '(0,0),(1,1)',
     '((0,0),(1,1),(1e300,0))', '{1,2,3}', '[(0,0),(1,1)]', '[(0,0),(1,1)]', '<(0,0),5>', 'ab', 'a  ', true, '$.a[*] ? (@ > 1)', '18446744073709551615', '1:10:5,7', '(4294967295,65535)'),
    (2, '', '10.1.2.3/8', '::/0', null, null, '000', '', '', '', '00000000-0000-0000-0000-000000000000', '', '', 0, 0, 0, '0/0', '(NaN,Infinity)',
     null, null, null, null, '((0,0),(1,1))', null, '   ', '', false, 'strict $', '0', '1:1:', '(0,0)');

-- Columns that make themselves, and names of every legal spelling

create function other.answer() returns int language sql immutable as 'select 42';
create table notes.generated (
    id int generated by default as identity, base int, twice int generated always as (base * 2) stored,
    thrice int generated always as (base * 3) virtual, status text not null default 'a' check (status in ('a', 'b')),
    answer int default other.answer(), primary key (id) with (fillfactor = 70), unique nulls not distinct (base, status),
    exclude using gist (base with =) deferrable initially deferred) with (fillfactor = 50, autovacuum_enabled = off);
alter table notes.generated cluster on generated_pkey;
create index on notes.generated ((base + 1) desc nulls last) include (twice) where status in ('a', 'b');
create statistics notes.counted_together on base, status from notes.generated;
insert into notes.generated (base) values (1), (2), (null);
create table notes."Odd "" na.me/%" (
    "select" int generated always as identity (start with 10 increment by -5 minvalue -100 maxvalue 10 cycle) primary key,
    "Ünï.c" text default 'it''s', "line" text, " " int, "sixty-three bytes, which is as long as a name of PostgreSQL can be." int);
insert into notes."Odd "" na.me/%" ("Ünï.c", "line") values (E'back\\slash " \t \n \u2028 \x01 \x7f', '{}'), (null, null), ('👩‍👩‍👧', '');
create table scheduler."x.y" (id int primary key);
create table notes.all_generated (x int generated always as (1) stored);
insert into notes.all_generated select from generate_series(1, 3);
create table notes."none" ();
insert into notes."none" select from generate_series(1, 3);
create table notes.empty (id int primary key);
create unlogged table notes.quick (id serial primary key, v int);
insert into notes.quick (v) values (1), (null);

-- Keys, and tables without

create table notes.no_key (x int, y text);
insert into notes.no_key values (2, 'b'), (1, 'b'), (1, 'a'), (1, 'a'), (null, null), (null, null);
create table notes.key_in_another_order (a int, b text, c uuid default uuidv7(), primary key (c, b, a));
insert into notes.key_in_another_order select i, chr(60 + i * 7) from generate_series(1, 20) i;
create table notes.key_of_documents (k jsonb primary key);
insert into notes.key_of_documents values ('null'), ('"B"'), ('"a"'), ('1'), ('{}');
create table notes.refers (id int primary key, self int references notes.refers on delete cascade deferrable, other int references notes.empty);
insert into notes.refers select i, 10 - i from generate_series(1, 9) i;
alter table notes.refers add constraint not_valid check (id > 5) not valid;
create table notes.was_nullable (a int);
insert into notes.was_nullable values (null), (1);
alter table notes.was_nullable add constraint not_valid not null a not valid;
create table notes.whole_rows (id int, t text);
alter table notes.whole_rows replica identity full;
create table notes.by_index (id int not null unique, t text);
alter table notes.by_index replica identity using index by_index_id_key;
create table notes.typed of notes.pair (primary key (a));

-- Partitions and children

create table notes.parts (id int, at date, v text, extra int default 3, primary key (id, at)) partition by range (at);
create table notes.parts_old (v text, extra int default 4, dropped int, at date not null, id int not null);
alter table notes.parts_old drop column dropped;
alter table notes.parts attach partition notes.parts_old for values from ('2000-01-01') to ('2001-01-01');
create table notes.parts_new partition of notes.parts for values from ('2001-01-01') to ('2002-01-01') partition by list (id);
create table notes.parts_new_1 partition of notes.parts_new for values in (1, 2);
create table notes.parts_new_x partition of notes.parts_new default;
create table notes.parts_rest partition of notes.parts default;
create index on notes.parts (v);
alter index notes.parts_rest_v_idx rename to renamed;
create index only_of_one on notes.parts_old (extra);
insert into notes.parts values (1, '2000-05-05', 'old'), (1, '2001-05-05', '1'), (9, '2001-05-06', 'x'), (1, '1999-01-01', 'rest');
create table notes.of_parts (id int, at date, foreign key (id, at) references notes.parts);
insert into notes.of_parts values (1, '2000-05-05'), (9, '2001-05-06');
create table notes.hashed (k text, v int generated always as identity) partition by hash (k);
create table notes.hashed_0 partition of notes.hashed for values with (modulus 2, remainder 0);
create table notes.hashed_1 partition of notes.hashed for values with (modulus 2, remainder 1);
insert into notes.hashed (k) select 'k' || i from generate_series(1, 20) i;
create table notes.parent (id int not null, v text, constraint whole check (id > 0), constraint own check (id < 9) no inherit);
create table notes.child (extra text) inherits (notes.parent);
insert into notes.parent values (1, 'p');
insert into notes.child values (20, 'c', 'more');

-- What hangs on tables

create function notes.touch() returns trigger language plpgsql as $$ begin new.v := coalesce(new.v, '') || '!'; return new; end $$;
create trigger touch before insert or update on notes.parts for each row when (new.id > 0) execute function notes.touch();
create trigger disabled before insert on notes.parent for each row execute function notes.touch();
alter table notes.parent disable trigger disabled;
alter table notes.parts_rest enable always trigger touch;
create rule nothing as on delete to notes.quick do instead nothing;
create view notes.seen with (security_barrier) as select p.id, count(*) from notes.parts p left join notes.of_parts r using (id) group by 1;
create view notes.by_key as select g.id, g.status, g.base from notes.generated g group by g.id;
create view notes.above as select * from notes.by_key where base > 0;
set check_function_bodies = off;
create function notes.sum(i int default 3, variadic more int[] default '{}') returns int language sql as 'select (i + notes.answers())::int';
create function notes.answers() returns bigint language sql begin atomic select count(*) * other.answer() from notes.by_key; end;
create function notes.of_row(r notes.generated) returns text language sql stable begin atomic select r.status || notes.sum(1); end;
create function notes.all_seen() returns setof notes.by_key language sql begin atomic select * from notes.by_key; end;
create procedure notes.p(inout x int) language plpgsql as $$ begin x := x + 1; end $$;
alter table notes.generated alter column answer set default notes.sum(5);

-- Sequences

create sequence notes.down as smallint increment -1 minvalue -100 maxvalue -1 cycle cache 5;
select nextval('notes.down') from generate_series(1, 3);
create sequence notes.never_used start 17;
create sequence notes.set_back;
select setval('notes.set_back', 77, false);
create sequence notes.owned owned by notes.quick.v;
select setval('notes.owned', 5);
