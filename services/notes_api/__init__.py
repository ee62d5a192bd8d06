"""The notes API: REST over PostgreSQL. `app.create_app` puts it together."""
