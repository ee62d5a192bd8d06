"""The console: pages for people, at /ops. Changes go through the functions that the API has, and are recorded."""
