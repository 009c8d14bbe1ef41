"""What a worker refuses before it runs it: programs and measurements that contradict themselves, or ask for too much."""
