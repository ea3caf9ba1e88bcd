"""The algorithms by the names users look for; thin bindings of a step."""
