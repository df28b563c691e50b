"""Brokers behind one seam: one file per broker, all the same shape (`base`)."""
