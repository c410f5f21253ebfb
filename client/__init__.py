"""The data owner's side: sees records, labels, weights and noise; decides for itself what it answers."""
