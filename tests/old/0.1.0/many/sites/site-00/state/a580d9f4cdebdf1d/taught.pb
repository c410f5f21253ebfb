-
 •АўфЌляЦYH°hiVIIР
.Ч3Щњ√XNXJ	record-dp