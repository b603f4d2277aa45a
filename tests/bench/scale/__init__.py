"""How far a state manager goes: many rows, many graphs, many runtimes."""
