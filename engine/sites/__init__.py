"""How fragmented land is: pixels and edges by region, class and unit, and indices made of them."""
