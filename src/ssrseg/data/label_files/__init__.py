"""Files and folders of others that say what each image shows; one module for a format.

Each module turns a file or a folder into ``LabelRows``; ``find`` chooses among them, and ``check``
holds all of them against the classes and the images on disk.
"""
