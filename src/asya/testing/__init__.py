"""What a user of Asya needs to test handlers, and an author of a transport or a store to test it."""
