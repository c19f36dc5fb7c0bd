"""What runs: configuration, device, disk and networks meet here and nowhere below."""
