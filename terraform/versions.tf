terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }

  # State: choose a backend of your own, for example in a file backend_override.tf. The NetStorage key is not in it.
}
