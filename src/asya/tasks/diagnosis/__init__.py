"""Why an envelope is where it is, and how long actors take: behind `asya why` and `asya top`."""
