"""What users write and read: the types of the resource, and every name that appears in it."""
