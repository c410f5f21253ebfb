random forest of site-010123456789"images*probabilities0
@€