"""What the service does with the bytes of a body, said again: slowly, with the standard library, without a thought of memory.

    codings     the bytes that a coding stands for
    values      JSON, and text that PostgreSQL can't hold
    items       what is kept of one item, and all that is wrong with it
    bodies      the items of a body, or why it is refused
    copy_files  rows, read as PostgreSQL's manual says
    comparison  the service and the above, held against each other

Nothing here is taken from `ingest.web`, but for the names of its media types. Where a body has more than one fault, the
service may name any of them, and so faults are sets.
"""
