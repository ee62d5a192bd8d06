# ruff: noqa: S608  # the queries are put together from constants
"""The objects of a PostgreSQL database, what each needs, and the SQL that makes it: read from its catalogue.

An object is known by the catalogue that lists it and its OID there. Some have no row of their own in a catalogue that
pg_depend knows: their catalogue is two words.
"""

# Objects that initdb makes have OIDs below this one, and are in every database.
FIRST_OID = 16384

# Tables by schema and name, and their partitions, each with the number of its table.
TAKEN = """
with taken (number, oid) as (
    select number - 1, c.oid from unnest($1::text[], $2::text[]) with ordinality as asked (schema, relation, number)
    join pg_namespace n on nspname = schema join pg_class c on relnamespace = n.oid and relname = relation
)
select number, oid from taken union select number, relid from taken cross join pg_partition_tree(oid)
"""

# Everything that could be needed, but what comes with another object or an extension. `kind` is one of STATEMENTS, or
# null where we cannot make it. `relation` is the table or view that the object is part of.
OBJECTS = f"""
with coming_with_another as (
    select distinct classid::regclass::text as class, objid as oid from pg_depend
    where deptype in ('e', 'i') and (classid, objid) <> (refclassid, refobjid) and classid <> 'pg_attrdef'::regclass
), listed (class, oid, kind, relation, namespace) as (
    select 'pg_namespace', oid, 'schema', 0, oid from pg_namespace where nspname <> 'public'
    union all select 'pg_extension', oid, 'extension', 0, extnamespace from pg_extension
    union all select 'pg_collation', oid, 'collation', 0, collnamespace from pg_collation
    union all select 'pg_type', t.oid, case
            when typtype = 'e' then 'enum' when typtype = 'd' then 'domain' when typtype = 'c' then 'composite'
            when exists (select from pg_range where rngtypid = t.oid and rngcanonical = 0) then 'range'
        end, 0, typnamespace
    from pg_type t
    where not exists (select from pg_type e where e.typarray = t.oid) and typtype <> 'm'
      and not exists (select from pg_class c where c.reltype = t.oid and c.relkind <> 'c')
    union all select 'pg_proc', oid, case when prokind <> 'a' then 'function' end, 0, pronamespace
    from pg_proc
    union all select 'pg_class', oid, case relkind
            when 'r' then 'table' when 'p' then 'table' when 'S' then 'sequence' when 'v' then 'view'
        end, 0, relnamespace
    from pg_class
    where relkind in ('r', 'p', 'S', 'v', 'f', 'm') and relpersistence <> 't'
    union all select 'pg_class', indexrelid, case when indisvalid or c.relkind = 'I' then 'index' end, indrelid, 0
    from pg_index join pg_class c on c.oid = indexrelid
    where not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))
    union all select 'index attachment', inhrelid, 'index attachment', indrelid, 0
    from pg_inherits join pg_index on indexrelid = inhrelid
    union all select 'index mark', indexrelid, 'index mark', indrelid, 0
    from pg_index where indisclustered or indisreplident
    union all select distinct 'table inheritance', inhrelid, 'inheritance', inhrelid, 0::oid
    from pg_inherits join pg_class on pg_class.oid = inhrelid where relkind in ('r', 'p')
    union all select 'sequence owner', d.objid, 'sequence owner', d.refobjid, 0
    from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'a'
    union all select 'pg_attrdef', d.oid, case attgenerated when '' then 'default' else 'generated' end, adrelid, 0
    from pg_attrdef d join pg_attribute on attrelid = adrelid and attnum = adnum
    union all select 'pg_constraint', k.oid, case k.contype when 'f' then 'foreign key' else 'constraint' end,
        k.conrelid, 0
    from pg_constraint k left join pg_constraint above on above.oid = k.conparentid
    where k.conrelid <> 0 and above.conrelid is distinct from k.conrelid
      and (k.contype in ('p', 'u', 'x', 'f', 'c') or k.contype = 'n' and (not k.convalidated or k.connoinherit))
    union all select 'pg_constraint', oid, 'domain constraint', 0, connamespace
    from pg_constraint where contypid <> 0 and not convalidated
    union all select 'pg_rewrite', oid, 'rule', ev_class, 0 from pg_rewrite where rulename <> '_RETURN'
    union all select 'pg_trigger', oid, 'trigger', tgrelid, 0 from pg_trigger where not tgisinternal
    union all select 'pg_policy', oid, 'policy', polrelid, 0 from pg_policy
    union all select 'pg_statistic_ext', oid, 'statistics', stxrelid, 0 from pg_statistic_ext
    union all select 'table mark', oid, 'table mark', oid, 0 from pg_class
    where relkind in ('r', 'p') and (relrowsecurity or relforcerowsecurity or relreplident in ('f', 'n'))
    union all select 'pg_operator', oid, null, 0, oprnamespace from pg_operator
    union all select 'pg_opclass', oid, null, 0, opcnamespace from pg_opclass
    union all select 'pg_opfamily', oid, null, 0, opfnamespace from pg_opfamily
    union all select 'pg_conversion', oid, null, 0, connamespace from pg_conversion
    union all select 'pg_ts_config', oid, null, 0, cfgnamespace from pg_ts_config
    union all select 'pg_ts_dict', oid, null, 0, dictnamespace from pg_ts_dict
    union all select 'pg_ts_parser', oid, null, 0, prsnamespace from pg_ts_parser
    union all select 'pg_ts_template', oid, null, 0, tmplnamespace from pg_ts_template
    union all select 'pg_cast', oid, case when castmethod <> 'b' then 'cast' end, 0, 0 from pg_cast
    union all select 'pg_language', oid, null, 0, 0 from pg_language
    union all select 'pg_am', oid, null, 0, 0 from pg_am
    union all select 'pg_transform', oid, null, 0, 0 from pg_transform
    union all select 'pg_event_trigger', oid, null, 0, 0 from pg_event_trigger
    union all select 'pg_foreign_data_wrapper', oid, null, 0, 0 from pg_foreign_data_wrapper
    union all select 'pg_foreign_server', oid, null, 0, 0 from pg_foreign_server
)
select class, listed.oid, kind, relation, nspname as schema, described.type, described.identity,
    -- A partition's foreign key and a child's check are made with those of their parents.
    class = 'pg_constraint' and exists (select from pg_constraint k where k.oid = listed.oid
        and (contype = 'f' and conparentid <> 0 or contype in ('c', 'n') and not conislocal)) as inherited,
    class = 'pg_extension' and exists (
        select from pg_extension e
        join pg_available_extension_versions v on (v.name, v.version) = (e.extname, e.extversion)
        where e.oid = listed.oid and v.trusted) as trusted
from listed left join pg_namespace n on n.oid = namespace
cross join lateral pg_identify_object(
    case when class like 'pg\\_%' then class else 'pg_class' end::regclass, listed.oid, 0
) as described
where listed.oid >= {FIRST_OID} and (nspname ~ '^pg_(temp|toast)') is not true
  and not exists (select from coming_with_another as other where (other.class, other.oid) = (listed.class, listed.oid))
"""

# What needs what. Partitions and children, and sequences and the columns that own them, are joined by statements of
# their own: the tables themselves do not need each other. How a table is stored is not kept.
NEEDS = f"""
select classid::regclass::text as class, objid as oid, refclassid::regclass::text as needed_class, refobjid as needed
from pg_depend d
where objid >= {FIRST_OID} and refobjid >= {FIRST_OID} and (classid, objid) <> (refclassid, refobjid)
  and deptype in ('n', 'a', 'i', 'e', 'x') and (classid, refclassid) <> ('pg_class'::regclass, 'pg_am'::regclass)
  and not (classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype <> 'i'
           and exists (select from pg_class where oid = objid and relkind in ('r', 'p', 'S'))
           and exists (select from pg_class where oid = refobjid and relkind in ('r', 'p')))
union all select joining, inhrelid, 'pg_class', one
from pg_inherits, unnest(array[inhrelid, inhparent]) as one,
    unnest(array['index attachment', 'table inheritance']) as joining
union all select 'index mark', indexrelid, 'pg_class', indexrelid from pg_index
union all select 'sequence owner', objid, 'pg_class', one
from pg_depend cross join unnest(array[objid, refobjid]) as one
where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype = 'a'
  and exists (select from pg_class where oid = objid and relkind = 'S')
"""

# Parts that are made with the whole: what they need, it needs.
PARTS = f"""
select 'pg_rewrite' as class, oid, 'pg_class' as whole_class, ev_class as whole from pg_rewrite
where rulename = '_RETURN' and oid >= {FIRST_OID}
union all select 'pg_class', typrelid, 'pg_type', oid from pg_type
where exists (select from pg_class c where c.oid = typrelid and c.relkind = 'c') and oid >= {FIRST_OID}
union all select 'pg_constraint', oid, 'pg_type', contypid from pg_constraint where contypid <> 0 and convalidated
union all select 'pg_class', objid, 'pg_class', refobjid
from pg_depend join pg_class on oid = objid and relkind = 'S'
where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype = 'i'
"""

COLLATE = """(
    select format(' collate %I.%I', nspname, collname)
    from pg_type ct, pg_collation l join pg_namespace ln on ln.oid = collnamespace
    where ct.oid = {type} and l.oid = {collation} and l.oid <> typcollation)"""
OPTIONS = "coalesce(' with (' || array_to_string({options}, ', ') || ')', '')"
ON = "from pg_class c join pg_namespace n on n.oid = c.relnamespace"
ENABLED = "case {state} when 'D' then 'disable' when 'R' then 'enable replica' when 'A' then 'enable always' end"
SEQUENCE = """format('start with %s increment by %s minvalue %s maxvalue %s cache %s%s',
    s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, case when s.seqcycle then ' cycle' end)"""
CONSTRAINT = f"""
select k.oid, array[format('alter table %s%I.%I add constraint %I %s',
    case when contype in ('p', 'u', 'x') or contype = 'f' and c.relkind = 'r' then 'only ' end,
    nspname, c.relname, conname, pg_get_constraintdef(k.oid))]
    || (select array[format('alter index %I.%I set (%s)', nspname, i.relname, array_to_string(i.reloptions, ', '))]
        from pg_class i where i.oid = conindid and i.reloptions is not null and contype in ('p', 'u', 'x'))
{ON} join pg_constraint k on conrelid = c.oid where k.oid = any ($1)"""

# By kind, in the order in which they are made where nothing else decides: the OID and the statements of those in $1.
# $2 of triggers are the tables that are backed up, and their partitions; of tables, the expressions of generated
# columns that are not made: such a column is one like others, and keeps its values.
STATEMENTS = {
    "schema": """
select oid, array[format('create schema if not exists %I', nspname)] from pg_namespace where oid = any ($1)""",
    "extension": """
select e.oid, array[format('create extension if not exists %I with schema %I', extname, nspname)]
from pg_extension e join pg_namespace n on n.oid = extnamespace where e.oid = any ($1)""",
    "collation": """
select l.oid, array[format('create collation %I.%I (provider = %s, %s%s%s)', nspname, collname,
    case collprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
    case when colllocale is null then format('lc_collate = %L, lc_ctype = %L', collcollate, collctype)
        else format('locale = %L', colllocale) end,
    case when not collisdeterministic then ', deterministic = false' end, ', rules = ' || quote_literal(collicurules))]
from pg_collation l join pg_namespace n on n.oid = collnamespace where l.oid = any ($1)""",
    "enum": """
select t.oid, array[format('create type %I.%I as enum (%s)', nspname, typname,
    (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = t.oid))]
from pg_type t join pg_namespace n on n.oid = typnamespace where t.oid = any ($1)""",
    "domain": f"""
select t.oid, array[format('create domain %I.%I as %s%s%s%s%s', nspname, typname, format_type(typbasetype, typtypmod),
    {COLLATE.format(collation="typcollation", type="typbasetype")},
    ' default ' || pg_get_expr(typdefaultbin, 'pg_type'::regclass), case when typnotnull then ' not null' end,
    (select string_agg(format(' constraint %I %s', conname, pg_get_constraintdef(k.oid)), ''
        order by conname collate "C")
     from pg_constraint k where contypid = t.oid and contype = 'c' and convalidated))]
from pg_type t join pg_namespace n on n.oid = typnamespace where t.oid = any ($1)""",
    "composite": f"""
select t.oid, array[format('create type %I.%I as (%s)', nspname, typname,
    (select string_agg(format('%I %s%s', attname, format_type(atttypid, atttypmod),
        {COLLATE.format(collation="attcollation", type="atttypid")}), ', ' order by attnum)
     from pg_attribute where attrelid = typrelid and attnum > 0 and not attisdropped))]
from pg_type t join pg_namespace n on n.oid = typnamespace where t.oid = any ($1)""",
    "range": f"""
select t.oid, array[format(
    'create type %I.%I as range (subtype = %s, subtype_opclass = %I.%I%s%s, multirange_type_name = %I.%I)',
    n.nspname, t.typname, format_type(rngsubtype, null), opn.nspname, opcname,
    replace({COLLATE.format(collation="rngcollation", type="rngsubtype")}, ' collate ', ', collation = '),
    case when rngsubdiff <> 0 then (select format(', subtype_diff = %I.%I', dn.nspname, proname) from pg_proc d
        join pg_namespace dn on dn.oid = pronamespace where d.oid = rngsubdiff) end, mn.nspname, m.typname)]
from pg_type t join pg_namespace n on n.oid = typnamespace join pg_range on rngtypid = t.oid
join pg_opclass o on o.oid = rngsubopc join pg_namespace opn on opn.oid = opcnamespace
join pg_type m on m.oid = rngmultitypid join pg_namespace mn on mn.oid = m.typnamespace where t.oid = any ($1)""",
    "function": "select oid, array[rtrim(pg_get_functiondef(oid), E'\\n')] from pg_proc where oid = any ($1)",
    "cast": """
select oid, array[format('create cast (%s as %s) with %s%s',
    format_type(castsource, null), format_type(casttarget, null),
    case castmethod when 'i' then 'inout' else 'function ' || castfunc::regprocedure end,
    case castcontext when 'a' then ' as assignment' when 'i' then ' as implicit' end)]
from pg_cast where oid = any ($1)""",
    "sequence": f"""
select c.oid, array[format('create %ssequence %I.%I as %s %s', case c.relpersistence when 'u' then 'unlogged ' end,
    nspname, relname, format_type(seqtypid, null), {SEQUENCE})]
{ON} join pg_sequence s on seqrelid = c.oid where c.oid = any ($1)""",
    "generated": "select oid, '{}'::text[] from pg_attrdef where oid = any ($1)",  # its table has it
    # A partition has the identity of its partitioned table.
    "table": f"""
select c.oid, array[format(E'create %stable %I.%I (%s)%s%s',
    case relpersistence when 'u' then 'unlogged ' end, nspname, relname,
    (select string_agg(format(E'\\n    %I %s%s%s%s%s', attname, format_type(atttypid, atttypmod),
        {COLLATE.format(collation="attcollation", type="atttypid")},
        case when attgenerated <> '' and not d.oid = any ($2) then format(' generated always as (%s) %s',
            pg_get_expr(d.adbin, c.oid), case attgenerated when 's' then 'stored' else 'virtual' end) end,
        case when attidentity <> '' and not c.relispartition then (
            select format(' generated %s as identity (sequence name %I.%I %s)',
                case attidentity when 'a' then 'always' else 'by default' end, sn.nspname, sc.relname, {SEQUENCE})
            from pg_sequence s join pg_class sc on sc.oid = seqrelid join pg_namespace sn on sn.oid = sc.relnamespace
            join pg_depend i on i.classid = 'pg_class'::regclass and i.objid = seqrelid and i.deptype = 'i'
            where i.refclassid = 'pg_class'::regclass and i.refobjid = c.oid and i.refobjsubid = attnum) end,
        case when attnotnull and not exists (
            select from pg_constraint k where conrelid = c.oid and contype = 'n' and conkey[1] = attnum
            and (not k.convalidated or k.connoinherit)) then ' not null' end
     ), ',' order by attnum)
     from pg_attribute a left join pg_attrdef d on d.adrelid = c.oid and d.adnum = attnum
     where attrelid = c.oid and attnum > 0 and not attisdropped),
    ' partition by ' || pg_get_partkeydef(c.oid), {OPTIONS.format(options="reloptions")})]
    || case when reloftype <> 0
        then array[format('alter table only %I.%I of %s', nspname, relname, format_type(reloftype, null))] end
{ON} where c.oid = any ($1)""",
    # Columns of children keep their own order, as attaching keeps it.
    "inheritance": f"""
select c.oid, array_agg(case when c.relispartition
    then format('alter table only %I.%I attach partition %I.%I %s', pn.nspname, p.relname, n.nspname, c.relname,
                pg_get_expr(c.relpartbound, c.oid))
    else format('alter table only %I.%I inherit %I.%I', n.nspname, c.relname, pn.nspname, p.relname)
    end order by inhseqno)
{ON} join pg_inherits on inhrelid = c.oid
join pg_class p on p.oid = inhparent join pg_namespace pn on pn.oid = p.relnamespace
where c.oid = any ($1) group by c.oid""",
    "default": f"""
select d.oid, array[format('alter table only %I.%I alter column %I set default %s', nspname, relname, attname,
    pg_get_expr(adbin, adrelid))]
{ON} join pg_attrdef d on adrelid = c.oid
join pg_attribute on attrelid = adrelid and attnum = adnum where d.oid = any ($1)""",
    "sequence owner": f"""
select c.oid, array[format('alter sequence %I.%I owned by %I.%I.%I',
    n.nspname, c.relname, tn.nspname, t.relname, attname)]
{ON} join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
    and d.refclassid = 'pg_class'::regclass and deptype = 'a'
join pg_class t on t.oid = refobjid join pg_namespace tn on tn.oid = t.relnamespace
join pg_attribute on attrelid = t.oid and attnum = refobjsubid where c.oid = any ($1)""",
    # Keys of partitions are made one by one and attached, as their names are their own; checks reach all children.
    "constraint": CONSTRAINT,
    "domain constraint": """
select k.oid, array[format('alter domain %I.%I add constraint %I %s',
    nspname, typname, conname, pg_get_constraintdef(k.oid))]
from pg_constraint k join pg_type t on t.oid = contypid
join pg_namespace n on n.oid = typnamespace where k.oid = any ($1)""",
    "index": "select indexrelid, array[pg_get_indexdef(indexrelid)] from pg_index where indexrelid = any ($1)",
    "index attachment": f"""
select c.oid, array[format('alter index %I.%I attach partition %I.%I', pn.nspname, p.relname, n.nspname, c.relname)]
{ON} join pg_inherits on inhrelid = c.oid
join pg_class p on p.oid = inhparent join pg_namespace pn on pn.oid = p.relnamespace
where c.oid = any ($1)""",
    # The key of a partitioned table is none before all partitions' are attached.
    "foreign key": CONSTRAINT,
    "index mark": f"""
select c.oid, case when indisclustered
        then array[format('alter table only %I.%I cluster on %I', nspname, t.relname, c.relname)] else '{{}}' end
    || case when indisreplident
        then array[format('alter table only %I.%I replica identity using index %I', nspname, t.relname, c.relname)] end
{ON} join pg_index on indexrelid = c.oid join pg_class t on t.oid = indrelid where c.oid = any ($1)""",
    "view": f"""
select c.oid, array[format(E'create view %I.%I%s as\\n%s', nspname, relname, {OPTIONS.format(options="reloptions")},
    rtrim(pg_get_viewdef(c.oid), ';'))] {ON} where c.oid = any ($1)""",
    "rule": f"""
select r.oid, array[rtrim(pg_get_ruledef(r.oid), ';')]
    || (select array[format('alter table %I.%I %s rule %I', nspname, relname, state, rulename)]
        from (select {ENABLED.format(state="ev_enabled")}) as s (state) where state is not null)
{ON} join pg_rewrite r on ev_class = c.oid where r.oid = any ($1)""",
    "trigger": f"""
select t.oid, case when p.oid is null or not p.tgrelid = any ($2) then array[pg_get_triggerdef(t.oid)] else '{{}}' end
    || (select array[format('alter table only %I.%I %s trigger %I', nspname, relname, state, t.tgname)]
        from (select {ENABLED.format(state="t.tgenabled")}) as s (state) where state is not null)
{ON} join pg_trigger t on t.tgrelid = c.oid left join pg_trigger p on p.oid = t.tgparentid where t.oid = any ($1)""",
    "policy": f"""
select p.oid, array[format('create policy %I on %I.%I as %s for %s to %s%s%s', polname, nspname, relname,
    case when polpermissive then 'permissive' else 'restrictive' end,
    case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
        else 'all' end,
    (select string_agg(case role when 0 then 'public' else quote_ident(pg_get_userbyid(role)) end, ', ')
     from unnest(polroles) as role),
    ' using (' || pg_get_expr(polqual, polrelid) || ')',
    ' with check (' || pg_get_expr(polwithcheck, polrelid) || ')')]
{ON} join pg_policy p on polrelid = c.oid where p.oid = any ($1)""",
    "statistics": "select oid, array[pg_get_statisticsobjdef(oid)] from pg_statistic_ext where oid = any ($1)",
    "table mark": f"""
select c.oid, (select array_agg(format('alter table only %I.%I %s', nspname, relname, mark)) from unnest(array[
    case when relrowsecurity then 'enable row level security' end,
    case when relforcerowsecurity then 'force row level security' end,
    case relreplident when 'f' then 'replica identity full' when 'n' then 'replica identity nothing' end]) as mark
    where mark is not null)
{ON} where c.oid = any ($1)""",
}
