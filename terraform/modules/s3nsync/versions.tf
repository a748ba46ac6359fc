terraform {
  required_version = ">= 1.11" # write-only arguments: the NetStorage key is in no state and no plan

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90" # in 6 a lookup's `region` is where it looks: data.aws_s3_bucket.source would agree with any
    }
  }
}
