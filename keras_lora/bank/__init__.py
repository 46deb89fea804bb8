"""One base, many adapters."""

from keras_lora.bank.bank import AdapterBank
