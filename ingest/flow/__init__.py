"""What lies between HTTP and the database, written against narrow Protocols and knowing neither."""
