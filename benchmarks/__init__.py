"""Speed as a ratio: the same work by Tieline and by its peers, in one run, alternating, in two processes on two cores."""
