(
 ò{OÌGë$kì[aq>Jø¦³@>Ò·u-=’NÏ>CJnone