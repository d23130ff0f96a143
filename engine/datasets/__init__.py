"""What is learnt from: patches, chips, their splits and importers. Imports no torch."""
