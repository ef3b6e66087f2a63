"""What a sweep will cost in FLOPs, hours and money, before anything runs."""
