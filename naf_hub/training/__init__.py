"""The one engine that trains: a :class:`~naf_hub.training.course.Course` says what is learned."""
