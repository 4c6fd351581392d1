-- The pictures that rows name are read all at once, once an hour, which a scan does as quickly; the
-- index was a page more to write and sync with each picture.

DROP INDEX image_blob;
