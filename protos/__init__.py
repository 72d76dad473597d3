"""What crosses a wire or is stored: .proto files, their generated code, and codecs."""
