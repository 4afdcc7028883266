"""One-vs-all ridge classification on sufficient statistics: pure functions on arrays, no I/O but the model's."""
