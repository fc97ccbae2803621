"""What each verb of the command line reads, asks a job for, and prints."""
