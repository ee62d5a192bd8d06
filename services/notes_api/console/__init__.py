"""The console: pages for people, at /admin. Changes go through the functions that the API has, and are recorded."""
