"""What leaves this machine: exported folders, the Hub, ONNX, torch.export, diffusers."""
