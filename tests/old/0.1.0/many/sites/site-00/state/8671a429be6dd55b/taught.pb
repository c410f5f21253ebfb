/
 †q¤)ΎmΥ[,ΰ‚Y0Ψ»Π]’φγzOtd7υζγλLJ	record-dp