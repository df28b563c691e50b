-- Fields of a hop's event are stored as they were emitted; what the task showed after it stands
-- beside them. Rows from before have NULL here, and more in `data`: see `tasks/stored_events.py`.

ALTER TABLE events ADD COLUMN progress INTEGER;     -- percent of the task after the event
