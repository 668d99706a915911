"""Images that lie in larger files: shards of archives, tables of a hub."""
