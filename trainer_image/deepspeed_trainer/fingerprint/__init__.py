"""What a run did, step by step, and what can be proven from it. Pure and stdlib only.

`order` says which sample stands where, `record` is what one rank writes down, `proof` reads what
all ranks of all attempts wrote.  The writer is the `loop`, the reader `dsjob verify`.
"""
