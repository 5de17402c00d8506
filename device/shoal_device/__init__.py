"""What runs beside the store on a Linux board: the agent that reads the machine."""
