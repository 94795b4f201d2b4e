"""What a served request leaves behind: metrics, logs and inference records. Nothing here delays the caller."""
