"""Importers: a PyTorch module, a saved ``torch.export`` program, an ONNX file or graph JSON.

Each makes a :class:`~perfmodel.workload.program.Program`. Torch and onnx are optional and imported
only when an importer that needs them is called.
"""
