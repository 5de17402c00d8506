"""Three processes on loopback: what a cluster of shoald does, and etcd and NATS beside it."""
