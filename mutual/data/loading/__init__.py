"""Loading: which images make a batch, and how batches are made and reach the device."""
