"""UniHOPE's generative de-occluder: photos of the same hand without the object that it holds."""
