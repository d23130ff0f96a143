"""Labels: training areas, and what is made of them."""
