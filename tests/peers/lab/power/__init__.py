"""Power cuts on a block device with a file system on it: what the disk was never told to keep is lost.

`device` is the disk, which logs what it is told to do; `cuts` makes of that log the disks a power cut could have left;
`mail` sends and takes mail and notes what the log held by then; `campaign` puts it together and judges.
"""
