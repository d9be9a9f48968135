"""The database: engine, connections and types, which know nothing of the web."""
