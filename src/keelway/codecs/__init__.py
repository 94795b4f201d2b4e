"""Wire formats: bytes to typed requests and typed responses to bytes. One module per format; none knows a transport."""
