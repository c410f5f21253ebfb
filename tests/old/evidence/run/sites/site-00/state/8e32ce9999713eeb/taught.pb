-
 Ž2Î™™q>ë7§®»æ21®’¬§W D÷q˜‚g …ÓJ	record-dp