"""Facts behind `asya why`, and latencies per actor for `asya top`."""
