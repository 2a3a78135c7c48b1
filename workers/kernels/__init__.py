"""The experts of one layer as one operation, in several back ends that agree with `reference`."""
