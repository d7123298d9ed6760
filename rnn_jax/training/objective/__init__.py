"""What is minimised beside a task's loss."""
