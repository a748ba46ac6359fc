terraform {
  required_version = ">= 1.11" # write-only arguments: the NetStorage key is in no state and no plan

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}
