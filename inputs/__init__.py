"""What an input is, the same for a site, the coordinator and whoever uses the student:
arrays, tables, texts, public encodings and features.
"""
