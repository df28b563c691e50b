-- Events of hops are stored as they were emitted; what a task showed after one stands beside it.
-- Rows from before have NULL here, and a form of their own in `data`: see `tasks/stored_events.py`.

ALTER TABLE events ADD COLUMN progress INTEGER;     -- percent of the task after the event
