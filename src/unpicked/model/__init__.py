"""The measurement: an object is seen from a view, at a placement, through optics, in noise."""
