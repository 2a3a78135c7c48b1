"""The experts of a layer as one operation, with several back ends that agree with `reference`."""
